"""The YAML files of the bundled experiments."""
