"""What the verbs of the command line do, as functions.

Each writes its files into a temporary place beside the one asked for and moves them there when
all is done: a job that is killed leaves nothing half-written.
"""
