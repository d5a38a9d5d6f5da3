"""Ten papers as pure functions in JAX: one config and one module each."""
