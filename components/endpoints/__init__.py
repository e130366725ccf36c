"""The one client of OpenAI-compatible servers, and what it sends them."""
