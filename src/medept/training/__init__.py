"""Training: recipes, views, the loop, checkpoints; and running images through an encoder."""
