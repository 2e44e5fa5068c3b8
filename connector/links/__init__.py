"""How packets travel between nodes: ILP over HTTP, in and out."""
