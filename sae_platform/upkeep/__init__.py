"""Keeping the registry true: whether its files still exist, of which commit they are, what is new, what others have."""
