"""What is kept on disk: one foreign library or format a module, and one way to write an artefact (`artefact`)."""
