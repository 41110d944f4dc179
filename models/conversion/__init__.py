"""Original OpenSora 1.0 and DUSt3R checkpoints to the models of this package."""
