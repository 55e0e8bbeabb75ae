"""Embedded Prompt Tuning (Zu et al., Medical Image Analysis 2024): learnable prompts inside the
softmax of a frozen attention.
"""
