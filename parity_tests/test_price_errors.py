"""Whatever is wrong with a file of prices is refused in one line: what, where, the mend."""

import pytest

from parity_tests.price_files import HEADER, LAYOUTS, YAHOO, edit, refuse, write

HEADER_WANTED = "expected a header line with a column Date and a column Close"
DAMAGES = {
    "empty": ("", f"is empty; {HEADER_WANTED}"),
    "blank": ("\n\n", f"is empty; {HEADER_WANTED}"),
    "header alone": (HEADER + "\n", "has no rows; expected at least one price"),
    "no header": ("2013-01-02,5\n", f"has no column Date; {HEADER_WANTED}.*found '2013-01-02, 5'"),
    "no close": ("Date,Open\n2013-01-02,5\n", f"has no column Close; {HEADER_WANTED}"),
    "date alone": ("Date\n2013-01-02\n", f"has no single Date and Close; {HEADER_WANTED}"),
    "two closes": ("Date,Close,Close/Last\n2013-01-02,5,5\n", "has two columns close; .*rename"),
    "two dates": ("Date,Date,Close\n2013-01-02,2013-01-02,5\n", "has no single Date"),
    "semicolons": (YAHOO.replace(",", ";"), "has no column Date; .*found 'Date;Open;High"),
    "short line": (edit(",1001.0,1009.0", ""), "line 5 has 4 cells; expected 6 like the header"),
    "not a date": (edit("2013-01-03", "yesterday"), "line 3, column Date: 'yesterday' is not a"),
    "date and more": (edit("2013-01-03", "2013-01-03x"), "'2013-01-03x' is not a date"),
    "day first": (edit("2013-01-03", "13/01/2013"), "'13/01/2013' .*YYYY-MM-DD or MM/DD/YYYY"),
    "no such day": (edit("2013-01-03", "2013-02-30"), "'2013-02-30' is not a date"),
    "duplicate": (
        edit("2013-01-03", "2013-01-02"),
        r"line 3, column date: 2013-01-02 repeats the date of line 2 .* one row a day",
    ),
    "unordered": (
        edit("2013-01-03", "2013-01-05"),
        r"line 4, column date: 2013-01-04 is out of order after line 3 \(2013-01-05\); .*ascend",
    ),
    "unordered descending": (
        LAYOUTS["descending"].replace("2013-01-03", "2013-01-05"),
        r"line 4, column date: 2013-01-05 is out of order after line 3 \(2013-01-04\); .*descend",
    ),
    "missing price": (edit("1001.0625", ""), r"line 3 \(2013-01-03\), column Close: ''; expected"),
    "missing open": (edit("1020.25", ""), r"line 3 \(2013-01-03\), column Open: ''; expected"),
    "broken header": (
        'Date,"Close\n"\n2013-01-02,none\n',
        "column Close: 'none'; expected a price",
    ),
    "null": (edit("1001.0625", "null"), "column Close: 'null'; expected a price above 0"),
    "nan": (edit("1001.0625", "NaN"), "column Close: 'NaN'; expected a price above 0"),
    "infinite": (edit("1001.0625", "inf"), "column Close: 'inf'"),
    "overflow": (edit("1001.0625", "1e999"), "column Close: '1e999'"),
    "underscore": (edit("1001.0625", "1_001"), "column Close: '1_001'"),
    "decimal comma": (edit("1001.0625", '"12,5"'), "column Close: '12,5'"),
    "zero": (
        edit("1001.0625", "0"),
        r"line 3 \(2013-01-03\), column close: '0.0'; expected a price",
    ),
    "negative": (edit("1020.25", "-$1,020.25").replace("-$1,020.25", '"-$1,020.25"'), "'-1020.25'"),
    "volume": (edit("4200000", "-1"), r"column volume: '-1.0'; expected 0 or more; mend or remove"),
    "no volume": (edit("4200000", "N/A"), "column Volume: 'N/A'; expected 0 or more"),
    "not text": (b"\x89PNG\r\n\x1a\n\x00", "line 1 is not CSV in UTF-8"),
    "utf-16": (YAHOO.encode("utf-16"), "is not CSV in UTF-8"),
    "open quote": (edit("1001.0625", '"1001'), "line 6 is not CSV in UTF-8 .*end of data"),
    "yfinance header cut": ("Price,Close\nTicker,AAPL\n", "begins with Price is yfinance's"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_file_is_refused(tmp_path, name):
    content, message = DAMAGES[name]
    file = write(tmp_path, content)
    assert refuse(file, message).startswith(file)
    assert refuse(str(tmp_path), message).startswith(file)


def test_wrong_path_or_ticker_is_refused(tmp_path):
    refuse(str(tmp_path / "none"), "does not exist; expected sample, seasonal, co2, yfinance:")
    refuse(str(tmp_path), "holds no CSV file; expected one a ticker, as AAPL.csv")
    file = write(tmp_path, YAHOO)
    refuse(file, "has no MSFT, TSLA; expected tickers among AAPL", tickers=("MSFT", "TSLA"))
    refuse(str(tmp_path), "has no MSFT; expected tickers among AAPL", tickers=("MSFT",))
    twin = write(tmp_path, YAHOO, "aapl.txt")
    assert refuse(str(tmp_path), "is of the same ticker as AAPL.csv; move").startswith(twin)
    refuse("sample", "source sample has no AAPL; expected tickers among GOOG", tickers=("AAPL",))
