"""An ensemble from its plan to its registered model: planned, drawn, recorded, assembled, packaged."""
