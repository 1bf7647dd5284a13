"""Front ends: a module for each kind of model."""
