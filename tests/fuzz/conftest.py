"""``make fuzz`` chooses the profile ``long``; every other run takes the default."""

from hypothesis import settings

settings.register_profile("long", max_examples=500)
