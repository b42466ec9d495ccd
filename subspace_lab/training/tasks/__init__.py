"""What a model is trained on and measured by: one file per task, all behind the protocol in `base`."""
