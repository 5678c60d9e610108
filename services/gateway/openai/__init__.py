"""An OpenAI-compatible face: what speaks to OpenAI's images and videos speaks to every provider of the catalog.

Source of the format: https://platform.openai.com/docs/api-reference (images, videos, models).
"""
