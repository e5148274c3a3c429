"""Measure joyimage beside diffusers: counters that are exact, and seconds."""
