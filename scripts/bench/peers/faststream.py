"""x"""

from scripts.bench.peers.contenders import Contender


class FastStream(Contender):
    pass
