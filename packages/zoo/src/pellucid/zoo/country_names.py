"""What `countryinfo` leaves as codes, and which of its records make no fact: kept by hand, read by `countries.py`."""


def _codes(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Dependent territories, states that are no more, and places that no state undisputedly holds: ISO alpha-3.
NOT_COUNTRIES = _codes(
    """ABW AIA ALA ANT ASM ATA ATF BES BLM BMU BVT CCK COK CUW CXR CYM ESH FLK FRO GGY GIB GLP GRL GUF GUM HKG HMD
    IMN IOT JEY MAC MAF MNP MSR MTQ MYT NCL NFK NIU PCN PRI PYF REU SCG SGS SHN SJM SPM SXM TCA TKL UMI VAT VGB VIR
    WLF"""
)

# The common English name where the record has another.
SUBJECTS = {
    "BHS": "Bahamas",
    "FSM": "Micronesia",
    "GMB": "Gambia",
    "MKD": "North Macedonia",
    "SWZ": "Eswatini",
}

# Answers in their usual English spelling.
ANSWERS = {
    "Washington D.C.": "Washington, D.C.",
    "Saint John's": "St. John's",
    "Verdian": "Verdean",
    "Tadzhik": "Tajik",
    "Kirghiz": "Kyrgyz",
    "Maldivan": "Maldivian",
    "Argentinean": "Argentine",
}

# A record gives one answer, but several are right, or the one given is contested or out of date.
LEFT_OUT = {
    "capital": _codes("BDI BEN BOL CIV GNQ ISR KAZ LKA NRU PSE SWZ ZAF"),
    "continent": _codes("ARM AZE CYP GEO KAZ RUS TUR"),
    "currency": _codes("BGR HRV ZWE"),
    "language": _codes("DZA KIR MAR MLI NER PER PHL PLW PNG TLS TUV"),
    "demonym": _codes("AFG BRB KNA LIE SMR SUR UZB"),
}

# The parts of the Americas that make two continents; elsewhere the record's region is the continent.
AMERICAS = {"Caribbean": "North America", "Central America": "North America", "South America": "South America"}

# The United Nations' regions (M49) in everyday English; those not here are so already.
SUBREGIONS = {
    "Australia and New Zealand": "Australasia",
    "Eastern Africa": "East Africa",
    "Eastern Asia": "East Asia",
    "Middle Africa": "Central Africa",
    "Northern Africa": "North Africa",
    "Northern America": "North America",
    "South-eastern Asia": "Southeast Asia",
    "Southern Asia": "South Asia",
    "Western Africa": "West Africa",
}

# ISO 4217 codes of funds and units of account, which nobody pays with.
FUNDS = _codes("BOV CHE CHW CLF USN USS UYI")

# Only the unit: "Japanese yen" would give Japan away.
_UNITS = {
    "afghani": "AFN",
    "ariary": "MGA",
    "baht": "THB",
    "balboa": "PAB",
    "birr": "ETB",
    "bolívar": "VEF VES",
    "boliviano": "BOB",
    "cedi": "GHS",
    "colón": "CRC",
    "córdoba": "NIO",
    "dalasi": "GMD",
    "denar": "MKD",
    "dinar": "BHD DZD IQD JOD KWD LYD RSD TND",
    "dirham": "AED MAD",
    "dobra": "STD STN",
    "dollar": "AUD BBD BND BSD BZD CAD FJD GYD JMD LRD NAD NZD SBD SGD SRD TTD TWD USD XCD",
    "dong": "VND",
    "dram": "AMD",
    "escudo": "CVE",
    "euro": "EUR",
    "forint": "HUF",
    "franc": "BIF CDF CHF DJF GNF KMF RWF XAF XOF",
    "gourde": "HTG",
    "guaraní": "PYG",
    "hryvnia": "UAH",
    "kina": "PGK",
    "kip": "LAK",
    "koruna": "CZK",
    "krona": "SEK",
    "króna": "ISK",
    "krone": "DKK NOK",
    "kwacha": "MWK ZMK ZMW",
    "kwanza": "AOA",
    "kyat": "MMK",
    "lari": "GEL",
    "lek": "ALL",
    "lempira": "HNL",
    "leone": "SLE SLL",
    "leu": "MDL RON",
    "lilangeni": "SZL",
    "lira": "TRY",
    "loti": "LSL",
    "manat": "AZN TMT",
    "mark": "BAM",
    "metical": "MZN",
    "naira": "NGN",
    "nakfa": "ERN",
    "ngultrum": "BTN",
    "ouguiya": "MRO MRU",
    "paʻanga": "TOP",
    "peso": "ARS CLP COP DOP MXN PHP UYU",
    "pound": "EGP GBP LBP SDG SSP SYP",
    "pula": "BWP",
    "quetzal": "GTQ",
    "rand": "ZAR",
    "real": "BRL",
    "rial": "IRR OMR YER",
    "riel": "KHR",
    "ringgit": "MYR",
    "riyal": "QAR SAR",
    "ruble": "BYN BYR RUB",
    "rufiyaa": "MVR",
    "rupee": "INR LKR MUR NPR PKR SCR",
    "rupiah": "IDR",
    "shekel": "ILS",
    "shilling": "KES SOS TZS UGX",
    "sol": "PEN",
    "som": "KGS UZS",
    "somoni": "TJS",
    "taka": "BDT",
    "tala": "WST",
    "tenge": "KZT",
    "tögrög": "MNT",
    "vatu": "VUV",
    "won": "KPW KRW",
    "yen": "JPY",
    "yuan": "CNY",
    "złoty": "PLN",
}
CURRENCIES = {code: unit for unit, codes in _UNITS.items() for code in codes.split()}

LANGUAGES = {
    "am": "Amharic",
    "ar": "Arabic",
    "bg": "Bulgarian",
    "bn": "Bengali",
    "cnr": "Montenegrin",
    "da": "Danish",
    "de": "German",
    "dv": "Dhivehi",
    "dz": "Dzongkha",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "et": "Estonian",
    "fa": "Persian",
    "fr": "French",
    "hr": "Croatian",
    "hu": "Hungarian",
    "id": "Indonesian",
    "is": "Icelandic",
    "it": "Italian",
    "ja": "Japanese",
    "ka": "Georgian",
    "km": "Khmer",
    "ko": "Korean",
    "lo": "Lao",
    "lt": "Lithuanian",
    "lv": "Latvian",
    "mk": "Macedonian",
    "mn": "Mongolian",
    "ms": "Malay",
    "my": "Burmese",
    "ne": "Nepali",
    "nl": "Dutch",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "sk": "Slovak",
    "sl": "Slovene",
    "sq": "Albanian",
    "sv": "Swedish",
    "th": "Thai",
    "tr": "Turkish",
    "uk": "Ukrainian",
    "vi": "Vietnamese",
    "zh": "Chinese",
}
