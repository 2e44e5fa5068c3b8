"""``jirani run`` with stand-in workers: ``python -m tests.support.standin_node``."""

from connector import supervisor
from connector.cli import main

if __name__ == "__main__":
    supervisor.WORKER = "tests.support.standin_worker"
    supervisor.RATES = "http.server"
    main(["run"], prog_name="jirani")
