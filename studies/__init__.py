"""Papers and presets in miniature, and the corpora they read: python -m studies.NAME --help"""
