"""The data of the bundled models: generated in milliseconds, nothing is downloaded."""
