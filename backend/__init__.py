"""The service around pixworld: wire protocol, client, server, worker and command line.

`protocol` and `client` also ship inside the Blender extension, so they need only numpy, msgpack and pyzmq.
"""

__version__ = "0.1.0"
