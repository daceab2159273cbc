"""Three LightningModules whose gradients misbehave: explode, vanish, collapse."""
