class Reason:
    def __repr__(self):
        return 'repr'

    def __str__(self):
        return 'str'


raise SystemExit(Reason())
