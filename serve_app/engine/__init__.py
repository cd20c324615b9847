"""Manta's own inference engine: torch only, no Ray.

Import `Engine` from `serve_app.engine.engine`; its values live in `serve_app.engine.types`,
which needs no torch.
"""
