"""The HTTP API: reads requests, checks them, asks the limiter and writes the answers.

May import the core. Nothing in the core may import from here.
"""
