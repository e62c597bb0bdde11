"""What goes into a bundle beside the artefacts, and its signature."""
