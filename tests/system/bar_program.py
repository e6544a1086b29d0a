"""Maps jobs that print, with a bar: what it is asked for is in its arguments."""

import os
import sys
import time

import procjobs

ALL_PRINTED = os.path.join(os.environ["XDG_RUNTIME_DIR"], "printed")


def talk(number):
    print(f"job {number} begins and ends{number}")
    sys.stderr.write(f"error {number} begins ")
    sys.stderr.flush()
    sys.stderr.write(f"and ends{number}\n")
    return number


def linger(number):
    print(f"job {number} begins and ends{number}", end="", flush=True)
    while not os.path.exists(ALL_PRINTED):
        time.sleep(0.01)  # job
    return number


def crash(number):
    if number == 5:
        raise ValueError("five")
    return talk(number)


if __name__ == "__main__":
    with procjobs.Pool(workers=2) as pool:
        if sys.argv[1] == "whole":
            print("sum", sum(pool.map(talk, range(30), progress=True)))
        elif sys.argv[1] == "half":
            for number in pool.map(linger, range(2), progress=True):
                print("result", number)
        elif sys.argv[1] == "closed":
            results = pool.map(talk, range(30), progress=True, buffersize=1)
            next(results)
            results.close()
        elif sys.argv[1] == "raised":
            try:
                list(pool.map(crash, range(30), progress=True))
            except ValueError:
                print("raised")
        elif sys.argv[1] == "interrupted":
            list(pool.map(linger, range(2), progress=True))
        elif sys.argv[1] == "deaf":
            place = pool._directory.path
            os.mkfifo(f"{place}/output-deaf")
            reader = os.open(f"{place}/output-deaf", os.O_RDONLY | os.O_NONBLOCK)
            assert pool._link.connection.request("divert", file="output-deaf")["is_diverted"]
            os.close(reader)
        pool.submit(print, "said on the terminal").result()
