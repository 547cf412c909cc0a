"""x"""

from scripts.bench.peers.contenders import Contender


class Debezium(Contender):
    pass
