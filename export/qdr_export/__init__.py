"""Export: canonical graph, one emitter per target, proof, sealed bundle."""
