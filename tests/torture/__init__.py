"""The ledger test: everybody writes down what they did, a killer kills, and the books must balance.

Producers and workers are processes of their own and write to files of their own, so that nothing
that dies takes the truth along. The checker knows nothing of flashq but what the README promises.
`make torture` runs it; tests here run it for a few seconds, and test the checker and the harness.
"""
