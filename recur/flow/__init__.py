"""How far back a recurrent network remembers, why it stops, and what to do about it."""
