"""Hanpaca in text-generation-webui: what stands behind `integrations/text_generation_webui/script.py`.

The host restarts its extensions in a running process; what is here stays. Importing it imports nothing of the host.
"""
