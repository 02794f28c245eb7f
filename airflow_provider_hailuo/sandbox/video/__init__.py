"""The videos that the sandbox renders: the encoder, the pictures, the text on them."""
