"""Form groups of every size, and have each of them talk among themselves.

The root prints, for each size, the ranks of every rank's group; nothing for those without one.
"""

import json

from lockstep.parallel.connect import connect


def main():
    communicator = connect()
    found = []
    # The first size comes again, for a group is made once and kept.
    for size in (*range(1, communicator.world_size + 2), 1):
        group = communicator.group(size)
        # The groups don't wait for each other.
        members = group.gather_texts(str(communicator.rank)) if group is not None else []
        own = {"members": list(map(int, members)), "rank": group.rank if members else None}
        communicator.meet()
        found.append([json.loads(text) for text in communicator.gather_texts(json.dumps(own))])
    if communicator.rank == 0:
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
