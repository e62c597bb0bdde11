"""Export: canonical graph, one emitter per target, proof, sealed bundle.

commands/     qdr-edge export, import, lint, parity
importer/     another tool's QDQ file → a checkpoint
graph/        checkpoint → canonical graph, float twin, class activation maps
reference/    what the canonical graph computes, defined completely
emit/         canonical graph → the form of one target
lint/         static rules of the targets
proof/        every form beside the reference; what a runtime compiled
sealing/      golden vectors, model card, SBOM, signature
pipeline.py   one student through all of it
"""
