"""The HTTP side: the ASGI application, its routes, the schemas of requests and answers, webhooks."""
