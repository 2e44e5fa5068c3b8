"""Assets, peers, routes and their stores over Postgres."""
