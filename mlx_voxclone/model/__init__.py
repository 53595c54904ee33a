"""The model, equal to the released serving code; parameter names are the checkpoint's own."""
