"""How large the database is, all in: `python tests/bench/size.py`."""
import contextlib
import os
import sqlite3
import sys

import common


def bytes_of_tables(db):
    """Return {table: bytes}, where this SQLite can tell."""
    with contextlib.closing(sqlite3.connect(db)) as connection, contextlib.suppress(sqlite3.OperationalError):
        return dict(connection.execute("""
            select m.tbl_name, sum(s.pgsize) from dbstat s join sqlite_schema m on m.name = s.name group by 1 order by 2 desc"""))
    return {}


def main():
    options = common.parser(__doc__).parse_args()
    results = []
    with common.folder_of(options) as folder:
        for pageviews in map(int, options.pageviews.split(",")):
            db, took = common.database(folder, pageviews)
            size, tables = os.path.getsize(db), bytes_of_tables(db)
            results.append({"pageviews": pageviews, "bytes": size, "bytes_per_pageview": size / pageviews, "made_in_s": took, "tables": tables})
            print(f"\n{pageviews:,} pageviews: {size / pageviews:.1f} bytes each" + (f", made and sealed in {took:.0f} s" if took else ""))
            common.table([("", "MB", "bytes a pageview"), *((name, f"{amount / 1e6:.1f}", f"{amount / pageviews:.2f}") for name, amount in tables.items()
                                                           if amount > pageviews / 100)] if tables else [("this SQLite does not tell of tables",)])
    common.write(options, results)


if __name__ == "__main__":
    sys.exit(main())
