"""The command line `isnet-jax`: one module a command. May import everything; nothing imports it."""
