"""The images in the tars."""
