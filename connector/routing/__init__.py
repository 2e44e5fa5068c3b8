"""The routing table and, later, the exchange of routes with peers. Pure."""
