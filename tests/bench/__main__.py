"""``make bench``: the forwarding benchmark; ``make bench ARGS=--help`` lists what it takes."""

from tests.bench.forwarding import main

main()
