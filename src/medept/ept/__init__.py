"""Embedded Prompt Tuning: learnable prompts inside the softmax of a frozen attention.

:mod:`~medept.ept.attention` has the mathematics, :mod:`~medept.ept.kernels` computes it,
:mod:`~medept.ept.prompts` holds what is learnt, and :mod:`~medept.ept.attach` puts that into a
model. The package needs PyTorch and pydantic, and of medept only its errors.
"""
