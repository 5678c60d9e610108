"""What every service stands on: errors, catalog, adapters, state, storage and the service frame."""

VERSION = "0.1.0"
