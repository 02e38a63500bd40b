from components.curation.page.markup import Html, join, percent, table, tag


def test_texts_and_attributes_are_escaped_and_markup_is_not_escaped_twice() -> None:
    inner = tag("b", "<i>&'\"")
    assert inner == "<b>&lt;i&gt;&amp;&#x27;&quot;</b>"
    assert tag("p", inner, title='"><script>') == f'<p title="&quot;&gt;&lt;script&gt;">{inner}</p>'


def test_what_is_none_is_left_out() -> None:
    assert join("a", None, Html("<b/>")) == "a<b/>"
    assert tag("img", src="x", alt=None, class_="y", stroke_width=2) == '<img src="x" class="y" stroke-width="2"/>'


def test_tables_write_large_numbers_for_people() -> None:
    assert '<td class="number">12,345</td>' in table(("n",), [(12345,)], numbers=(0,))


def test_shares() -> None:
    assert (percent(1, 8), percent(1, 0)) == ("12.5 %", "–")
