"""What a model is, with no numbers in memory: its layers, its rotary tables, the roles of its weights."""
