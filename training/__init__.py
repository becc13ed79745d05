"""The bundled trainer: DORA pretraining of an image encoder on clips, and its evaluation."""
