"""``jirani run`` with stand-in workers: ``python -m tests.support.standin_node``."""

from connector.cli import main
from connector.supervisor import Supervisor

if __name__ == "__main__":
    Supervisor.worker_module = "tests.support.standin_worker"
    main(["run"], prog_name="jirani")
