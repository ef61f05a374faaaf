"""The program evaluated again, so that its ordinary pullback is LRP."""
