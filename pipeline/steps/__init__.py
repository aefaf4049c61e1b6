"""One function a stage: read, compute with the core, write. `stores` opens what earlier stages left."""
