"""The API that users of SAELens know: one flat configuration and its runner, the store, the hooked transformer."""
