"""An ensemble whose processes are killed at random moments."""
