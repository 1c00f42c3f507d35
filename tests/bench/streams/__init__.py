"""The same join by others, each a script of its own for the environment that `peers_of` makes.

A script takes the file and prints one JSON document as the last line: events, seconds on the clock
and on the processor (of Java, too), and per arm how many exposures there were and the sum of their
rewards. None of them imports anything of ours.
"""
