"""Whether a hook is the one Lightning declares, or somebody's own.

No class of Lightning is imported: this holds for both of its namespaces.
"""

# Where Lightning declares what others may override; a definition elsewhere in a class
# hierarchy is an override.
_DECLARED_IN = {
    f"{root}.{where}"
    for root in ("lightning.pytorch", "pytorch_lightning")
    for where in (
        "core.module",
        "core.hooks",
        "callbacks.callback",
        "plugins.precision.precision",
        "strategies.strategy",
    )
} | {
    f"{root}.plugins.precision.precision"
    for root in ("lightning.fabric", "lightning_fabric")
}


def overrides(instance: object, hook: str) -> bool:
    """Whether a module, callback or plugin defines a hook that Lightning declares."""
    if hook in vars(instance):
        return True
    for cls in type(instance).__mro__:
        if hook in vars(cls):
            # Of the function, since a class may have been given another one.
            home = getattr(vars(cls)[hook], "__globals__", {})
            return home.get("__name__", cls.__module__) not in _DECLARED_IN
    return False
